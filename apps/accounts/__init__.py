"""Who may enter: namespaces (project.environment) and access keys. Imported by every other app; imports none of them."""
