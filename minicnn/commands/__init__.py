"""The commands of `minicnn`, a file each; those of `minicnn learn` and `minicnn explain` stand with what they command."""
