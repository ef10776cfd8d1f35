-- Asks Sidegate about a request. HAProxy forwards the request only if Sidegate permits it.

-- The fields that Sidegate writes. The value of a client never reaches the app.
local fields = {
    "{{field_name}}",
}

-- The auth check has no content and does not switch to another protocol. The last two fields report
-- the request, so the auth check must not contain the values of the client.
local left_out = {
    "connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding",
    "upgrade", "x-original-method", "x-original-uri",
}

-- HAProxy itself writes these fields into its answer.
local of_connection = {
    ["connection"] = true, ["content-length"] = true, ["keep-alive"] = true,
    ["transfer-encoding"] = true,
}

local function ask(txn)
    local headers = txn.http:req_get_headers()
    for _, name in ipairs(left_out) do
        headers[name] = nil
    end
    headers["x-original-method"] = { txn.f:method() }
    headers["x-original-uri"] = { txn.f:pathq() }
    return core.httpclient():get {
        url = "http://{{gateway}}{{check}}",
        headers = headers,
        timeout = 30000,
    }
end

local function count(values)
    local number = 0
    for _, value in pairs(values or {}) do
        if value ~= "" then
            number = number + 1
        end
    end
    return number
end

-- Without the variable, HAProxy refuses the request.
local function permit(txn, answer)
    for _, name in ipairs(fields) do
        txn.http:req_del_header(name)
        for _, value in pairs(answer.headers[name] or {}) do
            if value ~= "" then
                txn.http:req_add_header(name, value)
            end
        end
    end
    -- HAProxy does not add a field that is too large for the buffer.
    local headers = txn.http:req_get_headers()
    for _, name in ipairs(fields) do
        if count(headers[name]) ~= count(answer.headers[name]) then
            return
        end
    end
    txn:set_var("txn.sidegate_permitted", true)
end

local function refuse(txn, answer)
    local reply = txn:reply { status = 503, reason = "Service Unavailable" }
    -- Without an answer of Sidegate, the status is not a status of HTTP.
    if answer and answer.status >= 300 and answer.status <= 599 then
        reply = txn:reply { status = answer.status, reason = answer.reason, body = answer.body }
        for name, values in pairs(answer.headers) do
            for _, value in pairs(values) do
                if not of_connection[name] then
                    reply:add_header(name, value)
                end
            end
        end
    end
    txn:done(reply)
end

core.register_action("sidegate", { "http-req" }, function(txn)
    local answer = ask(txn)
    if answer and answer.status == 200 then
        permit(txn, answer)
    else
        refuse(txn, answer)
    end
end)
