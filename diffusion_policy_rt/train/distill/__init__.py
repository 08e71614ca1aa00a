"""From a many-step teacher to a student of few steps, in the convention x = x0 + sigma noise."""
