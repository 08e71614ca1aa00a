"""An expert for Push-T that knows the simulator's state: a policy's proposals, tried out first."""
