-- Returns the sessions of a group. Argument: the group.
return members(ARGV[3])
