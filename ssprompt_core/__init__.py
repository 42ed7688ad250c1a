"""SSPrompt: few-shot prompt learning for a frozen Segment Anything model."""
