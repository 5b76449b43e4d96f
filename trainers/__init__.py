"""Jobs on what has been appended, and the decisions about them."""
