"""What `prepare` reads from the datasets below: histories that continue, and chains folded into one."""
