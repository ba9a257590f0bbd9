"""One scenario in time: phases, toggles, convergence, counting, restore."""
