"""The commands of `segsync-train`, by what they work on. What one needs is imported when it runs."""
