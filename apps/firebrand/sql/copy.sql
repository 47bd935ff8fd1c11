-- Copies a chunk of one table's rows from a source brand to its clone, references mapped by `source_id`.
--
-- Parameters of all: source, target (brand ids), cursor (the source row's id behind which to go on), size (rows at most).
-- All answer one row: how many rows were read, how many were written, and the last source id (null: none was left).
-- The two numbers are equal, or a reference leads out of the source brand and its NOT NULL column refuses the chunk.
-- The map is looked up by scalar subqueries and not joined: each is one probe of a unique index, whatever the planner
-- believes of a table that grew a moment ago.
-- Locks: only those of the INSERT; the caller holds the clone's run, so nobody else writes to the target.

-- name: categories
-- The parents are set by `category_parents`, once all are there: a child may have been made before its parent.
WITH chunk AS (
    SELECT * FROM firebrand_category WHERE brand_id = %(source)s AND id > %(cursor)s ORDER BY id LIMIT %(size)s
), written AS (
    INSERT INTO firebrand_category (brand_id, source_id, slug, name, position)
    SELECT %(target)s, chunk.id, slug, name, position FROM chunk ORDER BY chunk.id
    RETURNING source_id
)
SELECT (SELECT count(*) FROM chunk), (SELECT count(*) FROM written), (SELECT max(id) FROM chunk);

-- name: category_parents
WITH chunk AS (
    SELECT * FROM firebrand_category WHERE brand_id = %(source)s AND id > %(cursor)s ORDER BY id LIMIT %(size)s
), written AS (
    UPDATE firebrand_category AS child
    SET parent_id = (
        SELECT parent.id FROM firebrand_category AS parent
        WHERE parent.brand_id = %(target)s AND parent.source_id = chunk.parent_id
    )
    FROM chunk
    WHERE child.brand_id = %(target)s AND child.source_id = chunk.id
    RETURNING child.source_id
)
SELECT (SELECT count(*) FROM chunk), (SELECT count(*) FROM written), (SELECT max(id) FROM chunk);

-- name: products
WITH chunk AS (
    SELECT * FROM firebrand_product WHERE brand_id = %(source)s AND id > %(cursor)s ORDER BY id LIMIT %(size)s
), written AS (
    INSERT INTO firebrand_product
        (brand_id, source_id, category_id, sku, slug, name, description, stock, listed_at)
    SELECT
        %(target)s, chunk.id,
        (SELECT c.id FROM firebrand_category AS c WHERE c.brand_id = %(target)s AND c.source_id = chunk.category_id),
        sku, slug, name, description, stock, listed_at
    FROM chunk ORDER BY chunk.id
    RETURNING source_id
)
SELECT (SELECT count(*) FROM chunk), (SELECT count(*) FROM written), (SELECT max(id) FROM chunk);

-- name: prices
WITH chunk AS (
    SELECT * FROM firebrand_price WHERE brand_id = %(source)s AND id > %(cursor)s ORDER BY id LIMIT %(size)s
), written AS (
    INSERT INTO firebrand_price (brand_id, product_id, price_list, currency, amount)
    SELECT
        %(target)s,
        (SELECT p.id FROM firebrand_product AS p WHERE p.brand_id = %(target)s AND p.source_id = chunk.product_id),
        price_list, currency, amount
    FROM chunk ORDER BY chunk.id
    RETURNING id
)
SELECT (SELECT count(*) FROM chunk), (SELECT count(*) FROM written), (SELECT max(id) FROM chunk);

-- name: translations
WITH chunk AS (
    SELECT * FROM firebrand_translation WHERE brand_id = %(source)s AND id > %(cursor)s ORDER BY id LIMIT %(size)s
), written AS (
    INSERT INTO firebrand_translation (brand_id, product_id, category_id, language, name, description)
    SELECT
        %(target)s,
        (SELECT p.id FROM firebrand_product AS p WHERE p.brand_id = %(target)s AND p.source_id = chunk.product_id),
        (SELECT c.id FROM firebrand_category AS c WHERE c.brand_id = %(target)s AND c.source_id = chunk.category_id),
        language, name, description
    FROM chunk ORDER BY chunk.id
    RETURNING id
)
SELECT (SELECT count(*) FROM chunk), (SELECT count(*) FROM written), (SELECT max(id) FROM chunk);

-- name: images
WITH chunk AS (
    SELECT * FROM firebrand_productimage WHERE brand_id = %(source)s AND id > %(cursor)s ORDER BY id LIMIT %(size)s
), written AS (
    INSERT INTO firebrand_productimage (brand_id, product_id, media_id, position)
    SELECT
        %(target)s,
        (SELECT p.id FROM firebrand_product AS p WHERE p.brand_id = %(target)s AND p.source_id = chunk.product_id),
        (SELECT m.id FROM firebrand_mediafile AS m WHERE m.brand_id = %(target)s AND m.source_id = chunk.media_id),
        position
    FROM chunk ORDER BY chunk.id
    RETURNING id
)
SELECT (SELECT count(*) FROM chunk), (SELECT count(*) FROM written), (SELECT max(id) FROM chunk);
