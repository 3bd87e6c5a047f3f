"""The leaderboard: methods by metrics, over models and seeds, with what each costs."""
