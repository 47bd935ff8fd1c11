"""Use case 1: a shop whose checkout announces its orders on a topic.

An order is written and announced in one transaction. Whoever wants to know of it subscribes to `orders.new`: the
warehouse (clients/php/examples/warehouse.php), the mailer (`manage.py taoshop_mailer`), the page of orders.
"""
