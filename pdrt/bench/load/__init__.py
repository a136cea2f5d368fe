"""Loads, and those who generate them; imports nothing of `pdrt.bench` but itself.

what is sent      sessions  prompts  datasets  traces
when              arrivals
how               api  client  driver  asking
what came back    records  metrics
for commands      flags  servers
"""
