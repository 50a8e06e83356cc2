-- What the scripts share that look into stored messages. This service writes `msg_id` and `role` at fixed places, so most
-- elements need no JSON parser. Half of a surrogate pair, for example, fails the parser; quotes inside a string are
-- escaped, so a match is a field all the same.

-- Returns the fields of an element that another writer stored, or nil.
local function foreign(element)
  local readable, message = pcall(cjson.decode, element)
  return readable and type(message) == 'table' and message or nil
end

local function role_of(element)
  local role = string.match(element, '^{"msg_id":"[%w-]*","role":"(%l+)"')
  if not role then
    local message = foreign(element)
    if message then
      role = message['role']
    else
      role = string.match(element, '"role"%s*:%s*"(%a+)"')
    end
  end
  return type(role) == 'string' and string.lower(role) or nil
end

-- Returns the place of the message with an id in a list, from 1; nil if it is not there.
local function find_message(elements, id)
  local begins = '{"msg_id":"' .. id .. '"'
  for at, element in ipairs(elements) do
    if string.sub(element, 1, #begins) == begins then
      return at
    end
  end
  for at, element in ipairs(elements) do
    local message = foreign(element)
    if message and tostring(message['msg_id']) == id then
      return at
    end
  end
end
