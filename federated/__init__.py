"""The place of kerasreg's federated extension. It is empty in this release.

The package is part of the wheel so that its name is settled; it has no public
names yet. The federated extension arrives in a later release.
"""
