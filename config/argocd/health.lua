-- Returns the health of a FilterDeployment for Argo CD, from spec.suspend and its conditions.
-- Argo CD sets obj. The libraries string and math are not available.
local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready = conditions.Ready or { status = "Unknown", message = "the operator has not seen it yet" }
local stalled = conditions.Stalled or { status = "False" }

if obj.spec.suspend then
  return { status = "Suspended", message = "spec.suspend is set; Ready stays " .. ready.status }
end
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this generation yet" }
end
if stalled.status == "True" then
  return { status = "Degraded", message = stalled.message }
end
if ready.status == "True" then
  return { status = "Healthy", message = ready.message }
end
if ready.status == "False" then
  return { status = "Degraded", message = ready.message }
end
return { status = "Progressing", message = ready.message }
