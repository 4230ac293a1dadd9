"""A plan and its execution: steps in child processes, a content-addressed cache, events."""
