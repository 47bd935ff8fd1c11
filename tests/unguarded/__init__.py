"""A database backend for what runs beside a test in threads of its own: the test's marks do not govern it."""
