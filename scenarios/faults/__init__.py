"""Real faults in the lab: real migrations, real things killed at every step, and the rule of one running copy checked."""
