"""Policies trained with other code, made bundles."""
