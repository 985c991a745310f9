from hypothesis import settings

# The first call pays for imports, and a shared machine is slow at times; the same examples every time.
settings.register_profile("basis", deadline=None, derandomize=True)
settings.load_profile("basis")
