"""The site's drawings and plots, made from the code when the site is built."""
