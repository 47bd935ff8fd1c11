"""Products and orders in Django's admin."""

from django.contrib import admin
from django.http import HttpRequest

from apps.taoshop.models import Order, OrderLine, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    """The shelf."""

    list_display = ["title", "sku", "price", "position"]


class OrderLineInline(admin.TabularInline):
    """An order's lines."""

    model = OrderLine
    fields = ["title", "quantity", "price_cents"]
    readonly_fields = ["title", "quantity", "price_cents"]
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        """An order never changes."""
        return False


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    """Orders, to look at."""

    list_display = ["number", "name", "email", "total", "created_at"]
    search_fields = ["name", "email"]
    readonly_fields = ["name", "email", "total_cents", "created_at"]
    inlines = [OrderLineInline]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Orders come from the checkout, which announces them."""
        return False
