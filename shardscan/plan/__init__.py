"""PLAN: what is read, reduced and committed together, and what that costs. Pure: nothing is read."""
