"""For all tests: no deadline for an example, since a machine may be busy with something else."""

from hypothesis import settings

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")
