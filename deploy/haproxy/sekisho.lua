-- Asks Sekisho who is asking, for HAProxy: http-request lua.sekisho URL
--
-- After a 200 it sets txn.sekisho_user, and the request goes on, with who the user is and without the session's cookies; the cookies of
-- a renewal are left in variables, for http-after-response. Any other answer is the browser's, but a 401 to a person
-- who opens a page becomes a redirect to the sign-in page.

-- What Sekisho reads of a request. Upgrade is HAProxy's own; the others tell a WebSocket as well.
local READ = {
    "accept", "access-control-request-method", "authorization", "cookie", "host", "origin", "purpose",
    "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user", "sec-purpose", "sec-websocket-key",
    "sec-websocket-version", "user-agent", "x-forwarded-for", "x-requested-with",
}

-- What the application reads of the answer.
local NAMED = { "x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "cookie" }

-- What the browser may read of a refusal.
local SHOWN = {
    "cache-control", "content-type", "retry-after", "set-cookie", "vary", "www-authenticate", "x-session-event",
}

-- What http-after-response finds.
local KEPT = {
    ["txn.sekisho_access"] = "x-set-access-cookie",
    ["txn.sekisho_refresh"] = "x-set-refresh-cookie",
    ["txn.sekisho_event"] = "x-session-event",
}

local TIMEOUT_MS = 10000

local function ask(txn, url)
    local sent = txn.http:req_get_headers()
    local headers = {
        ["x-original-method"] = { txn.sf:method() },
        ["x-original-uri"] = { txn.sf:pathq() },
    }
    for _, name in ipairs(READ) do
        headers[name] = sent[name]
    end
    return core.httpclient():get { url = url, headers = headers, timeout = TIMEOUT_MS }
end

-- What it may read of a redirect to the sign-in page.
local SHOWN_WITH_REDIRECT = { "cache-control", "set-cookie", "vary", "x-session-event" }

local function refuse(txn, answer)
    local sign_in_url = answer.headers["x-sign-in-url"]
    local reply, shown
    if sign_in_url then
        reply, shown = txn:reply { status = 303, reason = "See Other" }, SHOWN_WITH_REDIRECT
        reply:add_header("location", sign_in_url[0])
    else
        reply = txn:reply { status = answer.status, reason = answer.reason, body = answer.body or "" }
        shown = SHOWN
    end
    for _, name in ipairs(shown) do
        for _, value in pairs(answer.headers[name] or {}) do
            reply:add_header(name, value)
        end
    end
    txn:done(reply)
end

core.register_action("sekisho", { "http-req" }, function(txn, url)
    local answer = ask(txn, url)
    if not answer or not answer.status or answer.status < 200 or not answer.headers then
        answer = { status = 503, reason = "Service Unavailable", headers = { ["retry-after"] = { "1" } } }
    end
    if answer.status ~= 200 then
        return refuse(txn, answer)
    end
    for _, name in ipairs(NAMED) do
        txn.http:req_set_header(name, answer.headers[name] and answer.headers[name][0] or "")
    end
    for variable, name in pairs(KEPT) do
        if answer.headers[name] then
            txn:set_var(variable, answer.headers[name][0])
        end
    end
    -- The last, for without it nothing goes on.
    txn:set_var("txn.sekisho_user", answer.headers["x-forwarded-user"][0])
end, 1)
