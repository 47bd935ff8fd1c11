-- Checks of a finished copy. No locks.

-- name: counts
-- Rows by table of one brand (parameter: brand).
SELECT
    (SELECT count(*) FROM firebrand_category WHERE brand_id = %(brand)s) AS categories,
    (SELECT count(*) FROM firebrand_product WHERE brand_id = %(brand)s) AS products,
    (SELECT count(*) FROM firebrand_price WHERE brand_id = %(brand)s) AS prices,
    (SELECT count(*) FROM firebrand_translation WHERE brand_id = %(brand)s) AS translations,
    (SELECT count(*) FROM firebrand_mediafile WHERE brand_id = %(brand)s) AS media_files,
    (SELECT count(*) FROM firebrand_productimage WHERE brand_id = %(brand)s) AS product_images,
    (SELECT count(*) FROM firebrand_template WHERE brand_id = %(brand)s) AS templates,
    (SELECT count(*) FROM firebrand_page WHERE brand_id = %(brand)s) AS pages,
    (SELECT count(*) FROM firebrand_brandsetting WHERE brand_id = %(brand)s) AS settings;

-- name: strays
-- References of a brand's rows to rows of another brand, by table; all must be 0 (parameter: brand).
SELECT
    (SELECT count(*) FROM firebrand_category AS row JOIN firebrand_category AS other ON other.id = row.parent_id
     WHERE row.brand_id = %(brand)s AND other.brand_id <> row.brand_id) AS categories,
    (SELECT count(*) FROM firebrand_product AS row JOIN firebrand_category AS other ON other.id = row.category_id
     WHERE row.brand_id = %(brand)s AND other.brand_id <> row.brand_id) AS products,
    (SELECT count(*) FROM firebrand_price AS row JOIN firebrand_product AS other ON other.id = row.product_id
     WHERE row.brand_id = %(brand)s AND other.brand_id <> row.brand_id) AS prices,
    (SELECT count(*) FROM firebrand_translation AS row
     LEFT JOIN firebrand_product AS product ON product.id = row.product_id
     LEFT JOIN firebrand_category AS category ON category.id = row.category_id
     WHERE row.brand_id = %(brand)s AND coalesce(product.brand_id, category.brand_id) <> row.brand_id) AS translations,
    (SELECT count(*) FROM firebrand_productimage AS row
     JOIN firebrand_product AS product ON product.id = row.product_id
     JOIN firebrand_mediafile AS media ON media.id = row.media_id
     WHERE row.brand_id = %(brand)s
       AND (product.brand_id <> row.brand_id OR media.brand_id <> row.brand_id)) AS product_images;

-- name: lost_parents
-- Categories that stand elsewhere in the tree than their source (parameters: source, target).
SELECT count(*)
FROM firebrand_category AS copy
JOIN firebrand_category AS original ON original.id = copy.source_id AND original.brand_id = %(source)s
LEFT JOIN firebrand_category AS parent ON parent.id = copy.parent_id
WHERE copy.brand_id = %(target)s AND parent.source_id IS DISTINCT FROM original.parent_id;
