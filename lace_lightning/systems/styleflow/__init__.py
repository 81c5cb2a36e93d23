"""StyleFlow: conditional continuous normalising flows of w."""
