"""What learned prompts are and do: where they attend, which class names they resemble."""
