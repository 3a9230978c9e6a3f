"""The commands of ``cxr``, by what they are about. Heavy modules are imported when called."""
