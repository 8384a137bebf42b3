"""COCO's instance annotations."""
