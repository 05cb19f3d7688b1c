"""What sections of sources have besides what all tables share, by kind."""
