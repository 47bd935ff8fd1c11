-- Removes all rows of one brand (parameter: brand), children before parents; the caller holds the brand's run locked.
-- Plain DELETEs by the index on `brand_id`: the ORM would read the rows first, to cascade from them.

-- name: product_images
DELETE FROM firebrand_productimage WHERE brand_id = %(brand)s;

-- name: prices
DELETE FROM firebrand_price WHERE brand_id = %(brand)s;

-- name: translations
DELETE FROM firebrand_translation WHERE brand_id = %(brand)s;

-- name: products
DELETE FROM firebrand_product WHERE brand_id = %(brand)s;

-- name: media_files
DELETE FROM firebrand_mediafile WHERE brand_id = %(brand)s;

-- name: categories
DELETE FROM firebrand_category WHERE brand_id = %(brand)s;

-- name: templates
DELETE FROM firebrand_template WHERE brand_id = %(brand)s;

-- name: pages
DELETE FROM firebrand_page WHERE brand_id = %(brand)s;

-- name: settings
DELETE FROM firebrand_brandsetting WHERE brand_id = %(brand)s;
