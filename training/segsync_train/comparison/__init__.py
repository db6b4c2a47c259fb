"""The paper's comparison of systems: scores pooled, tested and ranked, then set in tables, figures and one page."""
