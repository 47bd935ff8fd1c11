"""Template filters of the console; other apps' templates may load `console`."""
