"""The crashed kernel: facts about it, its memory, where its page structs are, and what it logged."""
