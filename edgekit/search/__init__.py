"""What needs both lowering and measuring: which nodes a network can do without in integers, and a mixture."""
