"""Who may enter: namespaces (project.environment) and access keys. Every other app imports it; it imports none."""
