"""Common corruptions of images (Hendrycks and Dietterich, 2019): the published files, or generated alike."""
