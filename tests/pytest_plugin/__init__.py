"""The plugin, run by pytest in processes of its own on made-up projects."""
