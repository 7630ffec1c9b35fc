"""What ``pipeline report`` looks at in a run (LoCo, section 4.5)."""
