-- Returns the sessions of a group. Keys: those of the group. Argument: the group.
return members(ARGV[2])
