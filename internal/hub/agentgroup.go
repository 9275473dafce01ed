package hub

// agentHooks are what the groups of agents do with connections.
func (h *Hub) agentHooks() agentHooks { return agentHooks{} }
