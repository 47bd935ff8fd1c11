"""Use case 3: brands with catalogue, pages and media, and the long job that clones one."""
