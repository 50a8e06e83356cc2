-- What the scripts share that look into stored messages. This service writes `msg_id` and `role` at fixed places, so its
-- own elements need no JSON parser.

local OWN = '^{"msg_id":"([%w-]*)","role":"(%l+)"'

-- Returns the fields of an element that another writer stored, or nil.
local function foreign(element)
  local readable, message = pcall(cjson.decode, element)
  return readable and type(message) == 'table' and message or nil
end

-- Returns the role of an element in lower case, or nil.
local function role_of(element)
  local _, role = string.match(element, OWN)
  if not role then
    local message = foreign(element)
    if message then
      role = message['role']
    else
      -- cjson rejects some elements that the service reads, such as one with half of a surrogate pair. There a pattern
      -- finds the role: text cannot contain an unescaped "role":, so a match is a field.
      role = string.match(element, '"role"%s*:%s*"(%a+)"')
    end
  end
  return type(role) == 'string' and string.lower(role) or nil
end

-- Returns whether an element is a greeting: the character's words before the first message of the user. Only this service
-- writes one, and the metadata is the last field. A greeting belongs to the turn that follows it.
local function is_greeting(element)
  return element and string.match(element, '"metadata":{"greeting":%d+}}$') and role_of(element) == 'assistant'
end

-- Returns the id of an element, or nil.
local function id_of(element)
  local id = string.match(element, OWN)
  if id then
    return id
  end
  local message = foreign(element)
  id = message and message['msg_id']
  if type(id) == 'number' then
    -- cjson rounds large numbers.
    return string.match(element, '"msg_id"%s*:%s*(-?%d+)')
  elseif not message then
    id = string.match(element, '"msg_id"%s*:%s*"([%w-]+)"')
  end
  return type(id) == 'string' and id or nil
end

-- Returns the place of the message with an id in a list, from 1; nil if it is not there.
local function find_message(elements, id)
  for at, element in ipairs(elements) do
    if id_of(element) == id then
      return at
    end
  end
end
