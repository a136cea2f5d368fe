"""Many programs in one run, and the page that tells what came of them.

    conditions -> parts -> targets, roofline (drawn by chart) -> summary

Imports nothing of `pdrt.bench` but itself.
"""
