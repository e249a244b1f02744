"""The version of this package: what `slotworks --version` prints, `env.json` notes and the build takes."""

__version__ = "0.1.0"
