"""From labelled frames to committees that are better, and to what is known about them."""
