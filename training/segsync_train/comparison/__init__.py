"""The paper's comparison of systems: scores grouped, tested and ranked, then set in tables, figures and one page."""
