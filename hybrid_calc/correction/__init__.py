"""One surface from a committee and the labels of one molecule."""
