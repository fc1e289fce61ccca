"""What each runtime costs and gives, side by side."""
