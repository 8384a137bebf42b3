"""Pictures: colour maps, overlays, legends and plots."""
