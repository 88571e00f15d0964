"""Windows, widgets and dialogs. Nothing here touches torch."""
